#include "protocol.h"

#include <tvm/ffi/error.h>
#include <tvm/ffi/function.h>
#include <tvm/support/io.h>

#include "rpc/minrpc/rpc_reference.h"
#include "support/bytes_io.h"

namespace edgevit {
namespace {

// Collects a packet that TVM's encoder writes.
class PacketStream : public tvm::support::BytesOutStream {
 public:
  using BytesOutStream::BytesOutStream;
  void MessageStart(uint64_t) {}
  void MessageDone() {}
};

}  // namespace

std::string Word(int32_t value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof(value));
}

std::string Framed(const std::string& text) {
  return Word(static_cast<int32_t>(text.size())) + text;
}

std::string ErrorPacket(const std::string& message, bool timeout) {
  const std::string text = (timeout ? "RPCSessionTimeoutError: " : "") + message;
  std::string packet;
  PacketStream stream(&packet);
  tvm::runtime::RPCReference::ReturnException(text.c_str(), &stream);
  return packet;
}

}  // namespace edgevit
