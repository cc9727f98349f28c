// Reads golden files.
#pragma once

#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>

namespace reference {

/// A file of the folder `golden`, which stands beside this one's.
inline nlohmann::json golden(const std::string& name) {
  const std::string here = __FILE__;
  const std::string path = here.substr(0, here.rfind("reference")) + "golden/" + name;
  std::ifstream file(path);
  if (!file) throw std::runtime_error("cannot read " + path);
  return nlohmann::json::parse(file);
}

}  // namespace reference
