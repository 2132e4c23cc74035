// SPDX-License-Identifier: Apache-2.0
// Adds this snapshotter to containerd's config.toml, and removes it again. Lines that are
// added or commented out are marked, so that all of it can be taken back. Other lines stay as
// they are. Text to text. Of TOML it understands tables and keys on lines of their own, which
// is what containerd itself writes.
#ifndef FASTOCI_SNAPSHOTTER_CONTAINERD_CONFIG_H_
#define FASTOCI_SNAPSHOTTER_CONTAINERD_CONFIG_H_

#include <string>

#include "base/result.h"

namespace fastoci {

struct ContainerdSetup {
  std::string address, root;  // ours
  bool cri = false;           // pods use it, too
};

// text "": there is no file yet. A text that was configured before gives the same result
// again. kInvalid: the file has something else at a place that we need.
Result<std::string> AddToContainerdConfig(const std::string& text, const ContainerdSetup& setup);
std::string RemoveFromContainerdConfig(const std::string& text);

}  // namespace fastoci

#endif  // FASTOCI_SNAPSHOTTER_CONTAINERD_CONFIG_H_
