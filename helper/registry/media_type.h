// SPDX-License-Identifier: Apache-2.0
// What a manifest is, by what is in it: its type may come from nowhere else.
#ifndef FASTOCI_REGISTRY_MEDIA_TYPE_H_
#define FASTOCI_REGISTRY_MEDIA_TYPE_H_

#include <string>

namespace fastoci {

// The media type that body names, or else OCI's for an index or a manifest; "" if it cannot be
// told. Docker's kinds always name themselves.
std::string TypeOfContent(const std::string& body);

}  // namespace fastoci

#endif  // FASTOCI_REGISTRY_MEDIA_TYPE_H_
