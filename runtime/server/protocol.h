// Constants and messages of TVM's RPC protocol that the server itself speaks. The calls inside a
// session are TVM's runtime's business.
#ifndef EDGEVIT_SERVER_PROTOCOL_H_
#define EDGEVIT_SERVER_PROTOCOL_H_

#include <cstdint>
#include <string>

namespace edgevit {

// First word a client sends. tvm/rpc/base.py: RPC_MAGIC.
inline constexpr int32_t kRpcMagic = 0xff271;
// First word on a connection to a tracker. tvm/rpc/base.py: RPC_TRACKER_MAGIC.
inline constexpr int32_t kTrackerMagic = 0x2f271;

// The server's answers to a client.
enum class Answer : int32_t {
  kWelcome = kRpcMagic,
  // Clients report it as "server already have key". TVM's own servers never send it; here it means
  // that another session is going on.
  kBusy = kRpcMagic + 1,
  // Clients report it as "cannot find server that matches key".
  kWrongKey = kRpcMagic + 2,
};

// A string with its length in front, as both protocols send it.
std::string Framed(const std::string& text);

// A word in its bytes on the wire.
std::string Word(int32_t value);

// The packet that makes the client's pending or next call raise an error with this message. With
// `timeout`, TVM's clients raise RPCSessionTimeoutError.
std::string ErrorPacket(const std::string& message, bool timeout);

}  // namespace edgevit

#endif  // EDGEVIT_SERVER_PROTOCOL_H_
