// Memory for the arguments of one RPC packet: taken piece by piece, given back all at once.
#ifndef EDGEVIT_SHIM_SUPPORT_ARENA_H_
#define EDGEVIT_SHIM_SUPPORT_ARENA_H_

#include <algorithm>
#include <cstddef>
#include <memory>
#include <new>
#include <type_traits>
#include <vector>

namespace tvm {
namespace support {

class Arena {
 public:
  // Uninitialised room for `count` objects; a negative count comes from a damaged packet.
  template <typename T>
  T* allocate_(int count = 1) {
    static_assert(std::is_trivially_destructible_v<T> && alignof(T) <= alignof(std::max_align_t));
    if (count < 0 || static_cast<size_t>(count) > kMaxSize / sizeof(T)) throw std::bad_alloc();
    return static_cast<T*>(Allocate(sizeof(T) * static_cast<size_t>(count)));
  }

  // Everything allocated becomes invalid; small pages stay for the next packet.
  void RecycleAll() {
    large_.clear();
    page_ = 0;
    used_ = 0;
  }

 private:
  static constexpr size_t kPageSize = 16 << 10;
  static constexpr size_t kMaxSize = static_cast<size_t>(-1) / 4;

  void* Allocate(size_t size) {
    constexpr size_t kAlign = alignof(std::max_align_t);
    size = (size + kAlign - 1) / kAlign * kAlign;
    if (size > kPageSize / 4) {
      large_.emplace_back(new char[size]);
      return large_.back().get();
    }
    if (page_ < pages_.size() && used_ + size > kPageSize) {
      ++page_;
      used_ = 0;
    }
    if (page_ == pages_.size()) pages_.emplace_back(new char[kPageSize]);
    void* result = pages_[page_].get() + used_;
    used_ += size;
    return result;
  }

  std::vector<std::unique_ptr<char[]>> pages_;
  std::vector<std::unique_ptr<char[]>> large_;
  size_t page_ = 0;  // index of the page in use
  size_t used_ = 0;  // bytes taken from it
};

}  // namespace support
}  // namespace tvm

#endif  // EDGEVIT_SHIM_SUPPORT_ARENA_H_
