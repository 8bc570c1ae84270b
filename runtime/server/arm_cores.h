// Names of ARM's own cores by the part number that /proc/cpuinfo shows.
#ifndef EDGEVIT_SERVER_ARM_CORES_H_
#define EDGEVIT_SERVER_ARM_CORES_H_

#include <string>

namespace edgevit {

// For "0xd08": "Cortex-A72". For a part that is not in the list: "part 0x...".
std::string ArmCoreName(const std::string& part);

}  // namespace edgevit

#endif  // EDGEVIT_SERVER_ARM_CORES_H_
