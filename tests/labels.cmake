# What `ctest -L LABEL` runs and `cmake --build build --target LABEL_tests` builds: test programs, without their `_test`.
# ctest reads this too, after the tests, since gtest_discover_tests takes one label only.
set(labels archive cap ccd check nuc policy pot rope engine reading llama_cpp kernels floats threads rest)

# Wings
set(archive_programs archive archive_damage archive_file)
set(cap_programs attention_form cap)
set(ccd_programs allocation ccd ccd_failure ccd_reference ccd_trust concepts executor machine models recall recaller resume sinks walkthrough)
set(check_programs check_adapter measure_rope)
set(nuc_programs nuc nuc_from_hidden online_nuc)
set(policy_programs entry_rows policy query_moments selector smooth)
set(pot_programs compact entries foreign_layout fork pot pot_file quantize quantized_pot)
set(rope_programs mrope reindex rope rope_scaling)

# Examples
set(engine_programs adapter_check architectures attention ccd_golden chat dequantize gguf growing_positions linear llama_config llama_engine
                    llama_rope recall_golden sampler scaled_rope thread_pool tokenizer)
set(reading_programs answer_stream archive chat chat_input check conversation document interrupt model_fingerprint needle options
                     outputs pot_log progress prompt read report saved_pot session streaming_tokenizer whole_file)
list(TRANSFORM reading_programs PREPEND reading_)
set(llama_cpp_programs adapter_check agreement archive_program batch batch_allocation cache_types chat conversation engine error_log find_cache graph_tap
                       long_words markers models parallel program refusal same_tokens text)
list(TRANSFORM llama_cpp_programs PREPEND llama_cpp_)

# What vectors and the compiler's floating point could change: the kernels, and with them whole readers
set(kernels_programs ${cap_programs} ${nuc_programs} ${policy_programs} ${rope_programs} archive compact element nan quantize quantized_pot top_k)
list(REMOVE_ITEM kernels_programs policy)
set(floats_programs ${kernels_programs} ccd_failure models policy)
# What runs on an executor or on threads of its own
set(threads_programs architectures archive attention ccd_golden executor growing_positions linear llama_config llama_engine recall_golden
                     scaled_rope thread_pool tokenizer reading_prompt)
# What `tests/run.sh` leaves to `--rest`; tests that are no programs have this label where they are added
set(rest_programs peers_stages llama_cpp_rpc)

foreach(label ${labels})
  foreach(program ${${label}_programs})
    list(APPEND labels_of_${program} ${label})
    list(APPEND labelled ${program})
  endforeach()
endforeach()
list(REMOVE_DUPLICATES labelled)
if(CMAKE_PROJECT_NAME)  # CMake reads this, not ctest
  if(NOT INFINIPOT_BUILD_LLAMA_CPP)
    list(REMOVE_ITEM labels llama_cpp)
  endif()
  foreach(label ${labels})
    list(TRANSFORM ${label}_programs APPEND _test OUTPUT_VARIABLE programs)
    add_custom_target(${label}_tests DEPENDS ${programs})
  endforeach()
else()
  foreach(program ${labelled})
    if(${program}_test_TESTS)
      set_tests_properties(${${program}_test_TESTS} PROPERTIES LABELS "${labels_of_${program}}")
    endif()
  endforeach()
endif()
