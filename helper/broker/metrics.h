// SPDX-License-Identifier: Apache-2.0
// The helper's figures in Prometheus' text format.
#ifndef FASTOCI_BROKER_METRICS_H_
#define FASTOCI_BROKER_METRICS_H_

#include <nlohmann/json_fwd.hpp>
#include <string>

namespace fastoci {

// stat: the reply to the control request "stat". Figures that it lacks are left out.
std::string RenderMetrics(const nlohmann::json& stat);

}  // namespace fastoci

#endif  // FASTOCI_BROKER_METRICS_H_
