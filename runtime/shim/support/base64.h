// Base64 streams for tensors inside JSON, on top of tvm_ffi's own encoder.
#ifndef EDGEVIT_SHIM_SUPPORT_BASE64_H_
#define EDGEVIT_SHIM_SUPPORT_BASE64_H_

#include <tvm/ffi/extra/base64.h>
#include <tvm/support/io.h>

#include <string>

#include "bytes_io.h"

namespace tvm {
namespace support {

// Decodes the whole of `encoded` at InitPosition(), then reads from the result.
class Base64InStream : public Stream {
 public:
  explicit Base64InStream(Stream* encoded) : encoded_(encoded) {}

  using Stream::Read;
  using Stream::Write;

  void InitPosition() {
    std::string text;
    char block[4096];
    while (const size_t size = encoded_->Read(static_cast<void*>(block), sizeof(block))) {
      text.append(block, size);
    }
    decoded_ = ffi::Base64Decode(ffi::String(text));
    reader_ = BytesInStream(decoded_);
  }

  size_t Read(void* data, size_t size) final { return reader_.Read(data, size); }
  size_t Write(const void*, size_t) final { return 0; }

 private:
  Stream* encoded_;
  ffi::Bytes decoded_;
  BytesInStream reader_{nullptr, 0};
};

// Collects what is written and encodes it at Finish().
class Base64OutStream : public Stream {
 public:
  explicit Base64OutStream(Stream* encoded) : encoded_(encoded) {}

  using Stream::Read;
  using Stream::Write;

  size_t Read(void*, size_t) final { return 0; }

  size_t Write(const void* data, size_t size) final {
    plain_.append(static_cast<const char*>(data), size);
    return size;
  }

  void Finish() {
    const ffi::String text = ffi::Base64Encode(ffi::Bytes(plain_));
    encoded_->Write(static_cast<const void*>(text.data()), text.size());
  }

 private:
  Stream* encoded_;
  std::string plain_;
};

}  // namespace support
}  // namespace tvm

#endif  // EDGEVIT_SHIM_SUPPORT_BASE64_H_
