// All models that there are golden files of.
#pragma once

#include <cstddef>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "dense_families.hpp"
#include "golden_model.hpp"
#include "latent_families.hpp"
#include "model.hpp"
#include "picture_families.hpp"
#include "state_families.hpp"

namespace models {

/// Makes a model whose engine gets at most `longest_call` tokens at once.
using Family = Model (*)(const GoldenModel& golden, std::size_t longest_call);

inline constexpr std::pair<std::string_view, Family> families[] = {
    {"llama3", llama},
    {"qwen3", llama},
    {"smollm3", llama},
    {"phi3", phi3},
    {"cohere2", cohere2},
    {"gemma3", gemma3},
    {"gpt_oss", gpt_oss},
    {"deepseek_v3_latent", deepseek_v3_latent},
    {"deepseek_v3_expanded", deepseek_v3_expanded},
    {"qwen3_next", qwen3_next},
    {"lfm2", lfm2},
    {"qwen2_5_vl_parts", qwen_vl},
    {"qwen2_5_vl_whole", qwen_vl},
    {"qwen3_vl_parts", qwen_vl},
    {"qwen3_vl_whole", qwen_vl}};

inline std::vector<std::string> names() {
  std::vector<std::string> all;
  for (const auto& [name, family] : families) all.emplace_back(name);
  return all;
}

inline Model make_model(const GoldenModel& golden, std::size_t longest_call) {
  for (const auto& [name, family] : families)
    if (golden.at("name") == name) return family(golden, longest_call);
  throw std::logic_error("no family " + golden.at("name").get<std::string>());
}

}  // namespace models
