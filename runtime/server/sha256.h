// SHA-256 (FIPS 180-4).
#ifndef EDGEVIT_SERVER_SHA256_H_
#define EDGEVIT_SERVER_SHA256_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

namespace edgevit {

class Sha256 {
 public:
  void Update(const void* data, size_t size);

  // The digest of everything given, in lower-case hexadecimal. Ends the computation.
  std::string Finish();

 private:
  static constexpr size_t kBlock = 64;
  void Compress(const uint8_t* block);

  std::array<uint32_t, 8> state_ = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                    0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<uint8_t, kBlock> buffer_{};
  size_t buffered_ = 0;
  uint64_t total_ = 0;  // bytes
};

// Digest of a file. Throws std::runtime_error when it cannot be read.
std::string Sha256File(const std::string& path);

}  // namespace edgevit

#endif  // EDGEVIT_SERVER_SHA256_H_
