// SPDX-License-Identifier: Apache-2.0
#ifndef FASTOCI_HTTP_LOOPBACK_HOST_H_
#define FASTOCI_HTTP_LOOPBACK_HOST_H_

#include <string>

namespace fastoci {

// host[:port]: localhost, 127.0.0.0/8 or [::1]. Such a host may have plain HTTP, and no proxy
// of the environment is used for it.
bool IsLoopbackHost(const std::string& host);

}  // namespace fastoci

#endif  // FASTOCI_HTTP_LOOPBACK_HOST_H_
