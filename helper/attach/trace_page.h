// SPDX-License-Identifier: Apache-2.0
// A trace as one HTML page that needs nothing else: no script, no network. Names
// in it are an image author's: all text is escaped, and a content security policy
// forbids what could come through all the same.
#ifndef FASTOCI_ATTACH_TRACE_PAGE_H_
#define FASTOCI_ATTACH_TRACE_PAGE_H_

#include <string>

#include "attach/trace.h"

namespace fastoci {

// extents, files: null where they are not known.
std::string RenderTracePage(const Trace& trace, const ExtentMap* extents, const FileMap* files);

// For text and attributes: no markup, no control characters, UTF-8.
std::string HtmlText(const std::string& text);

}  // namespace fastoci

#endif  // FASTOCI_ATTACH_TRACE_PAGE_H_
