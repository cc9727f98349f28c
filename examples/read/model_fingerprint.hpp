// Tells a model's file from others.
#pragma once

#include <string>

namespace reading {

/// The model's own name and a hash, such as "SmolLM2 135M Instruct (0123456789abcdef)", of at most 200
/// bytes: the same for the same file under any name, other for one that differs. The hash is 64-bit FNV-1a of
/// the file's length, its first four megabytes (metadata, vocabulary) and 256 stretches of 16 KB spread
/// evenly over it (weights), so that it takes no time however large the model is: two files that differ
/// nowhere in these are taken for the same. Of a model in several files, the one that is named. Throws
/// UsageError if the file cannot be read.
std::string model_fingerprint(const std::string& path);

}  // namespace reading
