// Just enough JSON to read golden files: no escapes in strings, no checks beyond those that stop at bad input.
#pragma once

#include <cctype>
#include <cstddef>
#include <cstdlib>
#include <fstream>
#include <map>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace reference {

struct Json {
  double number = 0;  // also true (1), false and null (0)
  std::string string;
  std::vector<Json> array;
  std::map<std::string, Json> object;

  const Json& operator[](const std::string& key) const { return object.at(key); }
  bool has(const std::string& key) const { return object.count(key) != 0; }
  /// The number of a key that may be missing.
  double number_or(const std::string& key, double missing) const { return has(key) ? object.at(key).number : missing; }
  std::size_t size_or(const std::string& key, std::size_t missing) const {
    return has(key) ? object.at(key).size() : missing;
  }
  std::size_t size() const { return static_cast<std::size_t>(number); }

  std::vector<double> numbers() const {
    std::vector<double> out;
    for (const Json& item : array) out.push_back(item.number);
    return out;
  }
};

class JsonReader {
 public:
  explicit JsonReader(std::string text) : text_(std::move(text)) {}

  Json value() {
    switch (peek()) {
      case '{':
        return object();
      case '[':
        return array();
      case '"':
        return {0, string(), {}, {}};
      default:
        return word();
    }
  }

 private:
  char peek() {
    while (at_ < text_.size() && std::isspace(static_cast<unsigned char>(text_[at_]))) ++at_;
    if (at_ == text_.size()) throw std::runtime_error("JSON ends too early");
    return text_[at_];
  }

  void expect(char c) {
    if (peek() != c) throw std::runtime_error(std::string("JSON lacks ") + c + " at " + std::to_string(at_));
    ++at_;
  }

  /// After an element: true if another follows.
  bool more(char end) {
    if (peek() == end) return expect(end), false;
    return expect(','), true;
  }

  Json object() {
    Json out;
    expect('{');
    if (peek() == '}') return expect('}'), out;
    do {
      const std::string key = string();
      expect(':');
      out.object.emplace(key, value());
    } while (more('}'));
    return out;
  }

  Json array() {
    Json out;
    expect('[');
    if (peek() == ']') return expect(']'), out;
    do out.array.push_back(value());
    while (more(']'));
    return out;
  }

  std::string string() {
    expect('"');
    const std::size_t end = text_.find('"', at_);
    if (end == std::string::npos) throw std::runtime_error("JSON string does not end");
    const std::string out = text_.substr(at_, end - at_);
    at_ = end + 1;
    return out;
  }

  Json word() {
    const std::size_t end = std::min(text_.find_first_of(",]} \n", at_), text_.size());
    const std::string word = text_.substr(at_, end - at_);
    at_ = end;
    Json out;
    if (word == "false" || word == "null") return out;
    if (word == "true") return out.number = 1, out;
    char* stop = nullptr;
    out.number = std::strtod(word.c_str(), &stop);
    if (word.empty() || *stop != 0) throw std::runtime_error("JSON word '" + word + "' is no number");
    return out;
  }

  std::string text_;
  std::size_t at_ = 0;
};

/// The file of the folder `golden` beside the tests.
inline Json golden(const std::string& name) {
  const std::string here = __FILE__;
  const std::string path = here.substr(0, here.rfind("reference")) + "golden/" + name;
  std::ifstream file(path);
  if (!file) throw std::runtime_error("cannot read " + path);
  std::ostringstream text;
  text << file.rdbuf();
  return JsonReader(text.str()).value();
}

}  // namespace reference
