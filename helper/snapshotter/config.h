// SPDX-License-Identifier: Apache-2.0
// /etc/fastoci/snapshotter.json. Read strictly: an unknown key, a wrong type or a value out
// of range is an error that names the key.
#ifndef FASTOCI_SNAPSHOTTER_CONFIG_H_
#define FASTOCI_SNAPSHOTTER_CONFIG_H_

#include <string>

#include "base/result.h"
#include "config/config.h"
#include "snapshotter/snapshotter.h"

namespace fastoci {

inline constexpr char kSnapshotterConfigPath[] = "/etc/fastoci/snapshotter.json";
inline constexpr char kDefaultAddress[] = "/run/fastoci-snapshotter/fastoci.sock";
inline constexpr char kDefaultRoot[] = "/var/lib/fastoci-snapshotter";

struct SnapshotterConfig {
  SnapshotterConfig() {
    options.device.root = kDefaultRoot;
    metrics.port = 9864;  // the helper has 9863
  }
  std::string address = kDefaultAddress;
  SnapshotterOptions options;
  MetricsConfig metrics;
};

// name: for messages. What text does not say stays as it is in config.
Status ParseSnapshotterConfig(const std::string& text, const std::string& name, SnapshotterConfig* config);
// "": the usual file, which need not be there.
Status LoadSnapshotterConfig(const std::string& path, SnapshotterConfig* config);

}  // namespace fastoci

#endif  // FASTOCI_SNAPSHOTTER_CONFIG_H_
