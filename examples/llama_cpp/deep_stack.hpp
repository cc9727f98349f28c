// A thread whose stack is deep enough for recursion over a long text.
#pragma once

#include <cstddef>
#include <functional>

namespace llama_cpp {

/// Calls `function` on a thread of its own with a stack of `bytes` or more, and waits for it. Of the stack
/// only what is used takes memory. Throws what `function` throws, and std::runtime_error if there is no such
/// stack.
void on_deep_stack(std::size_t bytes, const std::function<void()>& function);

}  // namespace llama_cpp
