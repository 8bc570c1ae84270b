#include "json.h"

#include <cmath>
#include <cstdio>

namespace edgevit {
namespace {

std::string Number(double value) {
  // JSON has no infinities.
  if (!std::isfinite(value)) return "null";
  char text[32];
  std::snprintf(text, sizeof(text), "%.9g", value);
  return text;
}

// Length of the well-formed UTF-8 sequence at the start of `text`, or 0.
size_t SequenceLength(std::string_view text) {
  const auto lead = static_cast<unsigned char>(text[0]);
  const size_t length = lead >= 0xf0 && lead < 0xf5   ? 4
                        : lead >= 0xe0 && lead < 0xf0 ? 3
                        : lead >= 0xc2 && lead < 0xe0 ? 2
                                                      : 0;
  if (length == 0 || text.size() < length) return 0;
  for (size_t i = 1; i < length; ++i) {
    if ((static_cast<unsigned char>(text[i]) & 0xc0) != 0x80) return 0;
  }
  return length;
}

}  // namespace

std::string JsonQuote(std::string_view text) {
  std::string result = "\"";
  for (size_t i = 0; i < text.size();) {
    const char c = text[i];
    if (c == '"' || c == '\\') {
      result += {'\\', c};
      ++i;
    } else if (c >= ' ' && c < 0x7f) {
      result += c;
      ++i;
    } else if (const size_t length = c < 0 || c > 0x7f ? SequenceLength(text.substr(i)) : 0) {
      result += text.substr(i, length);
      i += length;
    } else {
      char escape[8];
      std::snprintf(escape, sizeof(escape), "\\u%04x", static_cast<unsigned char>(c));
      result += escape;
      ++i;
    }
  }
  return result + "\"";
}

std::string JsonArray(const std::vector<double>& values) {
  std::string result = "[";
  for (size_t i = 0; i < values.size(); ++i) result += (i == 0 ? "" : ", ") + Number(values[i]);
  return result + "]";
}

JsonObject& JsonObject::Add(std::string_view key, double value) {
  return AddRaw(key, Number(value));
}

JsonObject& JsonObject::AddRaw(std::string_view key, std::string_view json) {
  if (!members_.empty()) members_ += ", ";
  members_ += JsonQuote(key) + ": ";
  members_ += json;
  return *this;
}

}  // namespace edgevit
