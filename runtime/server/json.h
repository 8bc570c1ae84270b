// Writes JSON objects on one line: the server's log, its answers, its messages to a tracker.
#ifndef EDGEVIT_SERVER_JSON_H_
#define EDGEVIT_SERVER_JSON_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace edgevit {

// `text` in quotes, with everything escaped that is not printable ASCII or valid above it.
std::string JsonQuote(std::string_view text);

// A JSON array of numbers.
std::string JsonArray(const std::vector<double>& values);

class JsonObject {
 public:
  JsonObject& Add(std::string_view key, std::string_view value) {
    return AddRaw(key, JsonQuote(value));
  }
  JsonObject& Add(std::string_view key, const char* value) {
    return Add(key, std::string_view(value));
  }
  JsonObject& Add(std::string_view key, int64_t value) {
    return AddRaw(key, std::to_string(value));
  }
  JsonObject& Add(std::string_view key, int value) { return Add(key, int64_t{value}); }
  JsonObject& Add(std::string_view key, double value);

  // A value that is JSON already.
  JsonObject& AddRaw(std::string_view key, std::string_view json);

  std::string str() const { return "{" + members_ + "}"; }

 private:
  std::string members_;
};

}  // namespace edgevit

#endif  // EDGEVIT_SERVER_JSON_H_
