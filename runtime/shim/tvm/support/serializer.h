// Wire format of the types TVM serialises: plain values as their bytes, sequences as a 64-bit count
// followed by the elements.
//
// A count comes from outside and may be far larger than the stream. Nothing here allocates by a
// stated count: containers grow with the bytes that really arrive.
#ifndef EDGEVIT_SHIM_TVM_SUPPORT_SERIALIZER_H_
#define EDGEVIT_SHIM_TVM_SUPPORT_SERIALIZER_H_

#include <dlpack/dlpack.h>
#include <tvm/ffi/container/array.h>
#include <tvm/ffi/string.h>
#include <tvm/support/io.h>

#include <algorithm>
#include <string>
#include <type_traits>
#include <unordered_map>
#include <utility>
#include <vector>

namespace tvm {
namespace support {

// Types whose bytes in memory are their bytes on the wire.
template <typename T>
inline constexpr bool kIsPlain = std::is_arithmetic_v<T> || std::is_enum_v<T> ||
                                 std::is_same_v<T, DLDataType> || std::is_same_v<T, DLDevice>;

template <typename T>
struct Serializer<T, std::enable_if_t<kIsPlain<T>>> {
  static constexpr bool enabled = true;
  static void Write(Stream* stream, const T& value) {
    stream->Write(static_cast<const void*>(&value), sizeof(T));
  }
  static bool Read(Stream* stream, T* value) {
    return stream->Read(static_cast<void*>(value), sizeof(T)) == sizeof(T);
  }
};

// Contiguous plain elements, moved in blocks.
template <typename Container>
struct BlockSerializer {
  static constexpr bool enabled = true;
  using Element = typename Container::value_type;

  static void Write(Stream* stream, const Container& value) {
    stream->Write<uint64_t>(value.size());
    stream->Write(static_cast<const void*>(value.data()), value.size() * sizeof(Element));
  }

  static bool Read(Stream* stream, Container* value) {
    constexpr uint64_t kBlock = (uint64_t{1} << 20) / sizeof(Element);
    uint64_t remaining;
    if (!stream->Read<uint64_t>(&remaining)) return false;
    value->clear();
    while (remaining != 0) {
      const size_t count = static_cast<size_t>(std::min(remaining, kBlock));
      const size_t filled = value->size();
      value->resize(filled + count);
      const size_t bytes = count * sizeof(Element);
      if (stream->Read(static_cast<void*>(value->data() + filled), bytes) != bytes) return false;
      remaining -= count;
    }
    return true;
  }
};

template <>
struct Serializer<std::string> : BlockSerializer<std::string> {};

template <typename T>
struct Serializer<std::vector<T>, std::enable_if_t<kIsPlain<T>>> : BlockSerializer<std::vector<T>> {
};

template <>
struct Serializer<ffi::String> {
  static constexpr bool enabled = true;
  static void Write(Stream* stream, const ffi::String& value) {
    stream->Write<std::string>(std::string(value));
  }
  static bool Read(Stream* stream, ffi::String* value) {
    std::string text;
    if (!stream->Read(&text)) return false;
    *value = std::move(text);
    return true;
  }
};

// Sequences of anything else, one element at a time.
template <typename Container, typename Element>
struct SequenceSerializer {
  static constexpr bool enabled = true;

  static void Write(Stream* stream, const Container& value) {
    stream->Write<uint64_t>(value.size());
    for (const auto& element : value) stream->Write<Element>(element);
  }

  static bool Read(Stream* stream, Container* value) {
    uint64_t count;
    if (!stream->Read<uint64_t>(&count)) return false;
    Container result;
    for (uint64_t i = 0; i < count; ++i) {
      Element element;
      if (!stream->Read<Element>(&element)) return false;
      result.push_back(std::move(element));
    }
    *value = std::move(result);
    return true;
  }
};

template <typename T>
struct Serializer<std::vector<T>, std::enable_if_t<!kIsPlain<T>>>
    : SequenceSerializer<std::vector<T>, T> {};

template <typename T>
struct Serializer<ffi::Array<T>> : SequenceSerializer<ffi::Array<T>, T> {};

template <typename First, typename Second>
struct Serializer<std::pair<First, Second>> {
  static constexpr bool enabled = true;
  static void Write(Stream* stream, const std::pair<First, Second>& value) {
    stream->Write<First>(value.first);
    stream->Write<Second>(value.second);
  }
  static bool Read(Stream* stream, std::pair<First, Second>* value) {
    return stream->Read<First>(&value->first) && stream->Read<Second>(&value->second);
  }
};

template <typename Key, typename Value>
struct Serializer<std::unordered_map<Key, Value>> {
  static constexpr bool enabled = true;
  using Pairs = std::vector<std::pair<Key, Value>>;

  static void Write(Stream* stream, const std::unordered_map<Key, Value>& value) {
    stream->Write<Pairs>(Pairs(value.begin(), value.end()));
  }

  static bool Read(Stream* stream, std::unordered_map<Key, Value>* value) {
    Pairs pairs;
    if (!stream->Read<Pairs>(&pairs)) return false;
    value->clear();
    for (auto& pair : pairs) value->insert(std::move(pair));
    return true;
  }
};

}  // namespace support
}  // namespace tvm

#endif  // EDGEVIT_SHIM_TVM_SUPPORT_SERIALIZER_H_
