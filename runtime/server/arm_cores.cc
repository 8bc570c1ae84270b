#include "arm_cores.h"

#include <cstdlib>

namespace edgevit {
namespace {

struct ArmCore {
  long part;
  const char* name;
};

// MIDR_EL1 part numbers of implementer 0x41, from ARM's technical reference manuals.
constexpr ArmCore kArmCores[] = {
    {0xc07, "Cortex-A7"},   {0xc09, "Cortex-A9"},   {0xc0f, "Cortex-A15"},  {0xd03, "Cortex-A53"},
    {0xd04, "Cortex-A35"},  {0xd05, "Cortex-A55"},  {0xd07, "Cortex-A57"},  {0xd08, "Cortex-A72"},
    {0xd09, "Cortex-A73"},  {0xd0a, "Cortex-A75"},  {0xd0b, "Cortex-A76"},  {0xd0c, "Neoverse-N1"},
    {0xd0d, "Cortex-A77"},  {0xd40, "Neoverse-V1"}, {0xd41, "Cortex-A78"},  {0xd42, "Cortex-A78AE"},
    {0xd44, "Cortex-X1"},   {0xd46, "Cortex-A510"}, {0xd47, "Cortex-A710"}, {0xd48, "Cortex-X2"},
    {0xd49, "Neoverse-N2"}, {0xd4d, "Cortex-A715"}, {0xd4e, "Cortex-X3"},   {0xd4f, "Neoverse-V2"},
    {0xd80, "Cortex-A520"}, {0xd81, "Cortex-A720"}, {0xd82, "Cortex-X4"},
};

}  // namespace

std::string ArmCoreName(const std::string& part) {
  const long number = std::strtol(part.c_str(), nullptr, 16);
  for (const ArmCore& core : kArmCores) {
    if (core.part == number) return core.name;
  }
  return "part " + part;
}

}  // namespace edgevit
