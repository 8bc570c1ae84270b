// Byte queue between a socket and the RPC endpoint.
//
// It is a linear buffer that moves its content to the front when room runs out: packets are
// consumed whole, so it is nearly always empty then and nothing has to be moved.
#ifndef EDGEVIT_SHIM_SUPPORT_RING_BUFFER_H_
#define EDGEVIT_SHIM_SUPPORT_RING_BUFFER_H_

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

namespace tvm {
namespace support {

class RingBuffer {
 public:
  size_t bytes_available() const { return end_ - begin_; }

  // A packet's stated size is only a claim: memory follows the bytes that arrive.
  void Reserve(size_t) {}

  void Read(void* data, size_t size) {
    if (size > bytes_available()) throw std::bad_alloc();
    if (size != 0) std::memcpy(data, data_.get() + begin_, size);
    Consume(size);
  }

  void Write(const void* data, size_t size) {
    if (size == 0) return;
    MakeRoom(size);
    std::memcpy(data_.get() + end_, data, size);
    end_ += size;
  }

  // `send(data, size)` returns how many bytes it took.
  template <typename Send>
  size_t ReadWithCallback(Send send, size_t max_size) {
    const size_t size = send(data_.get() + begin_, std::min(max_size, bytes_available()));
    Consume(size);
    return size;
  }

  // `receive(data, size)` returns how many bytes it put there.
  template <typename Receive>
  size_t WriteWithCallback(Receive receive, size_t max_size) {
    max_size = std::min(max_size, kMaxReceive);
    MakeRoom(max_size);
    const size_t size = receive(data_.get() + end_, max_size);
    end_ += size;
    return size;
  }

 private:
  static constexpr size_t kMaxReceive = 1 << 20;
  static constexpr size_t kKeep = 4 << 20;

  struct Free {
    void operator()(char* data) const { std::free(data); }
  };

  void Consume(size_t size) {
    begin_ += size;
    if (begin_ != end_) return;
    begin_ = end_ = 0;
    // An upload leaves a buffer as large as the library: give it back.
    if (capacity_ > kKeep) {
      data_.reset();
      capacity_ = 0;
    }
  }

  void MakeRoom(size_t size) {
    if (size <= capacity_ - end_) return;
    if (begin_ != 0) {
      std::memmove(data_.get(), data_.get() + begin_, bytes_available());
      end_ -= begin_;
      begin_ = 0;
      if (size <= capacity_ - end_) return;
    }
    const size_t capacity = std::max(end_ + size, capacity_ * 2);
    char* grown = static_cast<char*>(std::realloc(data_.get(), capacity));
    if (grown == nullptr) throw std::bad_alloc();
    (void)data_.release();
    data_.reset(grown);
    capacity_ = capacity;
  }

  std::unique_ptr<char, Free> data_;
  size_t capacity_ = 0;
  size_t begin_ = 0;
  size_t end_ = 0;
};

}  // namespace support
}  // namespace tvm

#endif  // EDGEVIT_SHIM_SUPPORT_RING_BUFFER_H_
