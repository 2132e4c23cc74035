// SPDX-License-Identifier: Apache-2.0
// The keeper's answers as they travel.
#ifndef FASTOCI_FETCHER_KEEPER_JSON_H_
#define FASTOCI_FETCHER_KEEPER_JSON_H_

#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "http/secret.h"
#include "registry/access.h"
#include "registry/credential_source.h"
#include "registry/hosts.h"

namespace fastoci {

Secret CredentialToJson(const std::optional<FoundCredential>& found);
Result<std::optional<FoundCredential>> CredentialFromJson(const Secret& json);
Secret AccessesToJson(const std::vector<Access>& all);
Result<std::vector<Access>> AccessesFromJson(const Secret& json);
// Without the names of files.
Secret HostsToJson(const std::vector<HostConfig>& hosts);
Result<std::vector<HostConfig>> HostsFromJson(const Secret& json);

}  // namespace fastoci

#endif  // FASTOCI_FETCHER_KEEPER_JSON_H_
