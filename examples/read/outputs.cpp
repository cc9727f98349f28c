#include "outputs.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <cctype>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "option_checks.hpp"
#include "whole_file.hpp"

namespace reading {
namespace {

namespace fs = std::filesystem;

/// What tells files apart, whatever their names are.
using Identity = std::pair<dev_t, ino_t>;

/// Only what is there and can be overwritten has one: a device cannot.
std::optional<Identity> identity(int failed, const struct stat& found) {
  if (failed != 0 || !S_ISREG(found.st_mode)) return std::nullopt;
  return Identity{found.st_dev, found.st_ino};
}

std::optional<Identity> identity_of(const std::string& path) {
  struct stat found {};
  return identity(stat(path.c_str(), &found), found);
}

std::optional<Identity> identity_of(int descriptor) {
  struct stat found {};
  return identity(fstat(descriptor, &found), found);
}

struct File {
  std::string what;  ///< for messages
  std::optional<Identity> identity;
};

bool all_digits(std::string_view text) {
  for (const char c : text)
    if (std::isdigit(static_cast<unsigned char>(c)) == 0) return false;
  return true;
}

/// Calls part(path) for the files of a model that is split into NAME-00001-of-00003.gguf and so on.
void for_each_part(const std::string& model, const std::function<void(const std::string&)>& part) {
  constexpr std::string_view form = "-00001-of-00003.gguf";
  if (model.size() < form.size() || !model.ends_with(".gguf")) return;
  const std::string name = model.substr(0, model.size() - form.size()), end = model.substr(name.size());
  const std::string count = end.substr(10, 5);
  if (end[0] != '-' || !all_digits(end.substr(1, 5)) || end.substr(6, 4) != "-of-" || !all_digits(count))
    return;
  for (int i = 1; i <= std::stoi(count); ++i)
    part(name + "-" + std::to_string(100000 + i).substr(1) + end.substr(6));
}

/// What must stay as it is while an output is written.
std::vector<File> inputs(const Options& options) {
  std::vector<File> files{{"the model", identity_of(options.model)}};
  for_each_part(options.model, [&](const std::string& path) {
    files.push_back({"a part of the model", identity_of(path)});
  });
  for (const Turn& turn : options.turns)
    if (!turn.document.empty())
      files.push_back(
          {"a document", turn.document == "-" ? identity_of(STDIN_FILENO) : identity_of(turn.document)});
  if (!options.conversations.empty())
    files.push_back({"that of --conversations", identity_of(options.conversations)});
  if (options.chat) files.push_back({"where the questions come from", identity_of(STDIN_FILENO)});
  return files;
}

[[noreturn]] void refuse(const std::string& option, const std::string& path, const std::string& what) {
  throw UsageError(option + ": " + path + " is " + what);
}

void refuse_same(const std::string& option, const std::string& path, const std::vector<File>& others) {
  const std::optional<Identity> own = identity_of(path);
  if (!own) return;
  for (const File& other : others)
    if (other.identity == own) refuse(option, path, other.what);
}

/// What is written directly follows what was written there before.
std::vector<File> standard_streams() {
  return {{"where standard output goes (--json - writes there)", identity_of(STDOUT_FILENO)},
          {"where standard error goes", identity_of(STDERR_FILENO)}};
}

void check_output(const std::string& option, const std::string& path, const std::vector<File>& others) {
  if (path.empty()) return;
  check_path(option, path);
  refuse_same(option, path, others);
  if (!is_written_directly(path)) refuse_same(option, path, standard_streams());
}

/// Names that are not files yet are compared as paths. Two outputs may be the same device.
bool same_place(const std::string& a, const std::string& b) {
  const std::optional<Identity> first = identity_of(a), second = identity_of(b);
  if (first || second) return first == second;
  if (is_written_directly(a) || is_written_directly(b)) return false;
  const auto place = [](const std::string& path) {
    std::error_code error;
    return fs::weakly_canonical(fs::absolute(followed(path), error), error);
  };
  return place(a) == place(b);
}

/// A file that an option names.
struct Output {
  std::string option, path;
  bool written = true;
};

}  // namespace

void check_outputs(const Options& options) {
  const std::vector<File> read = inputs(options);
  // A pot may be saved where it was loaded.
  const Output outputs[] = {{"--archive", options.archive, reads_documents(options)},
                            {"--json", options.json == "-" ? std::string() : options.json},
                            {"--report", options.report},
                            {"--save", options.save},
                            {"--load", options.load, false}};
  std::vector<Output> before;
  for (const Output& output : outputs) {
    if (output.path.empty()) continue;
    const bool loads = output.option == "--load";
    if (output.written) check_output(output.option, output.path, read);
    for (const Output& other : before)
      if (!(loads && other.option == "--save") && same_place(output.path, other.path))
        refuse(output.option, output.path, "that of " + other.option);
    before.push_back(output);
  }
}

}  // namespace reading
