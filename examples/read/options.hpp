// The command line of the reading programs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>

namespace reading {

/// Thrown for a command line or an input that cannot be used; what() is one line that names the cause.
class UsageError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct Options {
  std::string model;
  std::string document;  ///< a file, or - for standard input
  std::string question;
  std::size_t pot = 2048;  ///< M
  std::size_t keep = 0;    ///< C; not given means half the pot
  std::string policy = "infinipot";
  double alpha = 0.25;
  std::string granularity;  ///< head, layer or shared; not given means the policy's usual one
  std::string aggregate = "max";
  std::size_t kernel = 0;  ///< odd; not given means the policy's usual one
  std::size_t sinks = 4;
  std::size_t recent = 0;
  std::string catalyst = "@question";  ///< a text, @question or @generic
  std::string answer_prefix;
  std::string answer;
  std::string needle;
  std::optional<std::size_t> max_tokens;  ///< of the document
  std::size_t generate = 64;
  std::size_t chunk = 256;
  std::size_t threads = 0;  ///< 0 means one per core
  std::string json;         ///< a file, or - for standard output; empty for none
  std::uint64_t seed = 0;
  double temperature = 0;
  double top_p = 1;
  std::size_t window = 64;  ///< snapkv
  double decay = 0.9;       ///< sirllm
};

/// Reads the command line, fills in what was not given and checks all that can be checked without the model.
/// Prints help or version and returns nothing if that is what it asks for. Throws UsageError.
std::optional<Options> parse_options(int argc, const char* const* argv);

}  // namespace reading
