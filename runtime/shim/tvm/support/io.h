// Byte streams that TVM's serialisation code reads from and writes to.
//
// The TVM wheel ships the runtime sources without this header. Only little-endian machines are
// supported, so no value is ever swapped.
#ifndef EDGEVIT_SHIM_TVM_SUPPORT_IO_H_
#define EDGEVIT_SHIM_TVM_SUPPORT_IO_H_

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace tvm {
namespace support {

// How one type is written to and read from a Stream; see serializer.h.
template <typename T, typename = void>
struct Serializer;

class Stream {
 public:
  virtual ~Stream() = default;
  // Both return the number of bytes moved, which is short only at the end of the stream.
  virtual size_t Read(void* data, size_t size) = 0;
  virtual size_t Write(const void* data, size_t size) = 0;

  template <typename T>
  void Write(const T& value) {
    Serializer<T>::Write(this, value);
  }

  template <typename T>
  bool Read(T* value) {
    return Serializer<T>::Read(this, value);
  }

  template <typename T>
  void WriteArray(const T* values, size_t count) {
    if constexpr (std::is_arithmetic_v<T>) {
      Write(static_cast<const void*>(values), count * sizeof(T));
    } else {
      for (size_t i = 0; i < count; ++i) Write<T>(values[i]);
    }
  }

  template <typename T>
  bool ReadArray(T* values, size_t count) {
    if constexpr (std::is_arithmetic_v<T>) {
      return Read(static_cast<void*>(values), count * sizeof(T)) == count * sizeof(T);
    } else {
      for (size_t i = 0; i < count; ++i) {
        if (!Read<T>(values + i)) return false;
      }
      return true;
    }
  }
};

}  // namespace support
}  // namespace tvm

// TVM's sources include only one of the two headers and expect both.
#include <tvm/support/serializer.h>

#endif  // EDGEVIT_SHIM_TVM_SUPPORT_IO_H_
