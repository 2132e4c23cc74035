// SPDX-License-Identifier: Apache-2.0
#include "snapshotter/writable.h"

#include <gtest/gtest.h>

#include <tuple>

namespace fastoci {
namespace {

// What a kill leaves at each step: no table, a table that was not resumed, a check that was not made.
TEST(WritableDevicesTest, OnlyADeviceThatIsWholeAndCheckedIsUsable) {
  for (const auto& [has_table, suspended, unchecked, usable] :
       {std::tuple{true, false, false, true}, {false, false, false, false}, {true, true, false, false},
        {false, true, false, false}, {true, false, true, false}}) {
    DmDevice device;
    device.has_table = has_table;
    device.suspended = suspended;
    EXPECT_EQ(WritableDevices::IsUsable(device, unchecked), usable) << has_table << suspended << unchecked;
  }
}

}  // namespace
}  // namespace fastoci
