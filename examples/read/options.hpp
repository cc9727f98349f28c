// The command line of the reading programs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

namespace reading {

/// Thrown for a command line or an input that cannot be used; what() is one line that names the cause.
class UsageError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// A message of the library without its name in front.
inline std::string without_library(const std::string& message) {
  const std::string name = "infinipot: ";
  return message.starts_with(name) ? message.substr(name.size()) : message;
}

/// A question, and what belongs to it. What is empty was not given.
struct Turn {
  std::string document = {};  ///< read before the question: a file, or - for standard input
  std::string question = {};  ///< empty where the document is only read, for questions that come later
  std::string answer_prefix = {};
  std::string answer = {};
  std::vector<std::string> needles = {};  ///< phrases that the answer rests on; none is empty
  std::string terms = {};                 ///< words of the question that matter; empty: all of it
};

struct Options {
  std::string model;
  bool check = false;       ///< check the engine's adapter, and nothing else
  std::vector<Turn> turns;  ///< each continues the conversation; a chat adds its own
  std::string pin;          ///< text before the first document that always stays; empty for none
  bool chat = false;        ///< go on with questions from standard input
  std::size_t pot = 2048;   ///< M
  std::size_t keep = 0;     ///< C; not given means half the pot, or what the policy context_shift keeps
  std::string policy = "infinipot";
  double alpha = 0;
  double term_share = 0;
  std::string granularity;           ///< head, layer or shared; not given means the policy's usual one
  std::string over_queries = "max";  ///< sum or max
  std::string over_heads = "max";    ///< sum, max or max_share
  std::size_t kernel = 0;            ///< odd; not given means the policy's usual one
  std::optional<std::size_t> lag;    ///< infinipot, in recalls too; not given means usual_smoothing(), or 0
  std::size_t sinks = 4;
  std::size_t recent = 0;
  std::vector<std::string> catalysts{"@prompt"};  ///< each a text, @prompt, @question or @generic
  std::optional<std::size_t> max_tokens;          ///< of each document
  std::size_t generate = 64;                      ///< for each answer
  std::size_t chunk = 256;
  std::size_t threads = 0;   ///< 0 means one per core, or what the program thinks best
  std::string json;          ///< a file, or - for standard output; empty for none
  std::string report;        ///< an HTML file that shows what the pot kept; empty for none
  bool report_kept = false;  ///< write what stayed to the JSON
  bool nuc = false;          ///< write NuC of all tokens to the JSON, and know it under every policy
  std::size_t timeline = 0;  ///< tokens from one sample of time and memory in the JSON to the next; 0: none
  std::uint64_t seed = 0;
  double temperature = 0;
  double top_p = 1;
  std::size_t window = 64;            ///< snapkv
  std::size_t block = 128;            ///< reread
  std::optional<std::size_t> layers;  ///< infinipot, reread; 0: all; not given means usual_layers()
  double decay = 0.9;                 ///< sirllm
  std::size_t future = 512;           ///< expected_attention
  std::size_t period = 1;             ///< temporal_redundancy
  std::size_t frames = 64;            ///< temporal_redundancy

  std::string archive;                ///< a file for all that is read; empty for none
  std::string archive_type;           ///< of its rows; not given means the file's own, or the program's first
  std::uint64_t archive_limit = 0;    ///< bytes of it, beyond which the oldest goes; 0: none
  std::optional<std::size_t> recall;  ///< steps before each answer; not given means usual_recall
  std::string read_anew = "no";       ///< yes or no: whether what a recall found is fed once more as text
  std::size_t recall_pot = 0;         ///< entries of a pot for recalls alone; 0: they run in the reader's
  std::size_t recall_kernel = 0;      ///< `kernel` of the recall, whatever the policy
  std::size_t recall_lag = 0;         ///< `lag` of it
  std::size_t recall_layers = 0;      ///< `layers` of it
  std::string save;                   ///< a file for the pot as it is at the end; empty for none
  std::string load;                   ///< a pot to go on from; empty for none

  std::string conversations;  ///< a file of conversations, instead of the turns; empty for none
  std::size_t parallel = 0;   ///< of them that run at once; not given means usual_parallel

  // What only some programs have (Program::more_options).
  std::string cache_type;       ///< element type of keys and values: f32, f16 or q8_0
  std::string flash_attention;  ///< on or off
  std::string positions;        ///< reindexed or growing
  std::string rpc;              ///< host:port,... of other machines that compute; empty for none
};

/// Conversations of a file that run at once.
inline constexpr std::size_t usual_parallel = 4;

/// Steps of recall before an answer, where there is an archive.
inline constexpr std::size_t usual_recall = 1;

// Groups of options in the help to which programs add their own.
inline constexpr const char* pot_group = "Pot";
inline constexpr const char* running_group = "Running";

/// An option that only some programs have. As a setting in the JSON it has the same name, without the leading
/// dashes and with underscores for the others: --cache-type becomes cache_type.
struct MoreOption {
  std::string name;  ///< with its dashes
  std::string Options::*target;
  std::vector<std::string> words;  ///< its choices; any text if there are none
  std::string type;                ///< of its argument, as the help shows it: f32|f16|q8_0
  std::string meaning;             ///< for the help
  std::string fallback;            ///< its value if it is not given
  std::string group = running_group;
};

/// How one reading program differs from another.
struct Program {
  std::string name;
  std::string model_help;  ///< what --model may name
  std::string notes = {};  ///< lines at the end of the help
  /// What the store can do, in the order of the help. The only one, or the policy's usual one, is the
  /// default.
  std::vector<std::string> granularities{"head", "layer", "shared"};
  bool context_shift = false;  ///< whether it has this policy
  bool reads_entries = false;  ///< whether it has policies that score by keys and values
  bool owns_pots = false;      ///< whether it can have several pots, and files of them
  bool parallel = false;       ///< whether several conversations can share a batch
  /// What an archive can keep of an entry for this store; the first is the default.
  std::vector<std::string> archive_types{"int8", "int4", "f16", "f32", "tokens"};
  std::vector<MoreOption> more_options = {};
};

/// Reads the command line, fills in what was not given and checks all that can be checked without the model.
/// Prints help or version and returns nothing if that is what it asks for. Throws UsageError.
std::optional<Options> parse_options(const Program& program, int argc, const char* const* argv);

}  // namespace reading
