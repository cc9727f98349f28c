#include "argument_list.hpp"

#include <CLI/CLI.hpp>
#include <cstddef>

#include "options.hpp"
#include "smollm2/gguf_error.hpp"

namespace reading {
namespace {

[[noreturn]] void refuse(const std::string& name, const std::string& cause) {
  throw UsageError(name + ": " + cause + " (see --help)");
}

/// Null if there is none of that name.
const CLI::Option* option_of(const CLI::App& app, const std::string& name) {
  return name.starts_with("--") && name.size() > 2 ? app.get_option_no_throw(name) : nullptr;
}

bool takes_value(const CLI::Option& option) { return option.get_items_expected_min() > 0; }

/// `next` is the option that follows; empty for none.
[[noreturn]] void refuse_without_value(const CLI::Option& option, const std::string& name,
                                       const std::string& next) {
  const std::string missing = "its " + option.get_type_name() + " is missing";
  if (next.empty()) refuse(name, missing);
  refuse(name, missing + ": " + next + " is an option; if it is meant as text, write " + name + "=" + next);
}

}  // namespace

std::vector<std::string> argument_list(const CLI::App& app, int argc, const char* const* argv) {
  std::vector<std::string> arguments;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i], name = argument.substr(0, argument.find('='));
    const CLI::Option* const option = option_of(app, name);
    arguments.push_back(option != nullptr ? name : argument);
    if (option == nullptr) continue;
    if (name.size() < argument.size()) {
      const std::string value = argument.substr(name.size() + 1);
      if (!takes_value(*option)) refuse(name, "takes no value, but was given " + smollm2::quoted(value));
      arguments.push_back(value);
    } else if (takes_value(*option)) {
      if (++i >= argc) refuse_without_value(*option, name, "");
      if (option_of(app, argv[i]) != nullptr) refuse_without_value(*option, name, argv[i]);
      arguments.emplace_back(argv[i]);
    }
  }
  return arguments;
}

}  // namespace reading
