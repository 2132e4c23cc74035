// SPDX-License-Identifier: Apache-2.0
// Why an image cannot be attached or read from here, step by step from the name
// server to a range of each layer: what was found, and what to do about it. Each
// step builds on the one before; the first that fails ends the list.
#ifndef FASTOCI_ATTACH_DOCTOR_IMAGE_H_
#define FASTOCI_ATTACH_DOCTOR_IMAGE_H_

#include <string>
#include <vector>

#include "attach/doctor.h"
#include "attach/pull.h"

namespace fastoci {

// Speaks only to the registry. Examine() looks at the node's own state. The findings
// contain no secrets.
std::vector<Finding> ExamineRemote(const std::string& ref, const RegistryAccess& access,
                                   Progress* progress);

// What a registry says of its limits, in words: "100 in 21600 s, 76 left"; "" if it
// says nothing.
std::string RateLimit(const HttpResponse& response);

}  // namespace fastoci

#endif  // FASTOCI_ATTACH_DOCTOR_IMAGE_H_
