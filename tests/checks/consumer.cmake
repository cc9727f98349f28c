# cmake -DMODE=... -DINFINIPOT_SOURCE=... -DINFINIPOT_BUILD=... -DWORK=... -DGENERATOR=... -DCOMPILER=... -P consumer.cmake
# Builds and runs tests/consumer against the library, in one of the ways in which projects take it in.
function(run)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(NOT result EQUAL 0)
    string(JOIN " " command ${ARGN})
    message(FATAL_ERROR "${command}: exit ${result}\n${output}")
  endif()
endfunction()

file(REMOVE_RECURSE ${WORK})
set(configure ${CMAKE_COMMAND} -S ${INFINIPOT_SOURCE}/tests/consumer -G ${GENERATOR} -DCMAKE_CXX_COMPILER=${COMPILER} -DMODE=${MODE}
              -DINFINIPOT_SOURCE=${INFINIPOT_SOURCE} -DCMAKE_PREFIX_PATH=${WORK}/prefix)
if(MODE STREQUAL "package")
  run(${CMAKE_COMMAND} --install ${INFINIPOT_BUILD} --prefix ${WORK}/prefix)
  execute_process(COMMAND ${configure} -B ${WORK}/refused -DWANTED_VERSION=99 RESULT_VARIABLE result
                  OUTPUT_QUIET ERROR_QUIET)
  if(result EQUAL 0)
    message(FATAL_ERROR "find_package(infinipot 99) found this version")
  endif()
  list(APPEND configure -DWANTED_VERSION=${VERSION})
endif()
run(${configure} -B ${WORK}/build)
run(${CMAKE_COMMAND} --build ${WORK}/build)
run(${WORK}/build/consumer)
