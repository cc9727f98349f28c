# cmake -DCOMMAND=compiler;flags -DSOURCE=... -P compile_32_bits.cmake
# Compiles a file for 32 bits, where the compiler has headers for that.
set(probe "#include <vector>\n#include <gnu/stubs.h>\n")
file(WRITE probe_32_bits.cpp "${probe}")
execute_process(COMMAND ${COMMAND} probe_32_bits.cpp RESULT_VARIABLE result OUTPUT_QUIET ERROR_QUIET)
if(NOT result EQUAL 0)
  message("skipped: there are no headers for 32 bits")
  return()
endif()
execute_process(COMMAND ${COMMAND} ${SOURCE} RESULT_VARIABLE result ERROR_VARIABLE output)
if(NOT result EQUAL 0)
  message(FATAL_ERROR "does not compile:\n${output}")
endif()
