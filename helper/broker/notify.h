// SPDX-License-Identifier: Apache-2.0
// systemd's notification protocol, by hand: a datagram to $NOTIFY_SOCKET.
#ifndef FASTOCI_BROKER_NOTIFY_H_
#define FASTOCI_BROKER_NOTIFY_H_

#include <string>

namespace fastoci {

// state: "READY=1", "WATCHDOG=1" or "STOPPING=1". Does nothing if there is no socket, or
// if nobody receives it.
void NotifySystemd(const std::string& state);
// Half of $WATCHDOG_USEC in milliseconds, 0 if no watchdog waits for us.
int WatchdogIntervalMs();

}  // namespace fastoci

#endif  // FASTOCI_BROKER_NOTIFY_H_
