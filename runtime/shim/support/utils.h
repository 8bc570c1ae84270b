// The two string helpers that TVM's thread pool and RPC endpoint use.
#ifndef EDGEVIT_SHIM_SUPPORT_UTILS_H_
#define EDGEVIT_SHIM_SUPPORT_UTILS_H_

#include <algorithm>
#include <string>
#include <string_view>

namespace tvm {
namespace support {

inline bool IsNumber(const std::string& text) {
  return !text.empty() &&
         std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

inline bool StartsWith(const std::string& text, std::string_view prefix) {
  return text.compare(0, prefix.size(), prefix) == 0;
}

}  // namespace support
}  // namespace tvm

#endif  // EDGEVIT_SHIM_SUPPORT_UTILS_H_
