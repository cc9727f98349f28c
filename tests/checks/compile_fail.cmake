# cmake -DSOURCE=... -DCOMMAND=compiler;flags -P compile_fail.cmake
# The file's first line says what the compiler must say:
#   // expect: MESSAGE         with SHOULD_FAIL defined; as it is, the file compiles
#   // expect-error: MESSAGE   of the file as it is
# A second line '// flags: FLAGS' adds flags, which win over those of the command.
file(READ ${SOURCE} text)
if(NOT text MATCHES "^// (expect|expect-error): ([^\n]+)\n(// flags: ([^\n]+)\n)?")
  message(FATAL_ERROR "${SOURCE} does not begin with '// expect: ' or '// expect-error: '")
endif()
set(kind ${CMAKE_MATCH_1})
set(expected "${CMAKE_MATCH_2}")
separate_arguments(flags UNIX_COMMAND "${CMAKE_MATCH_4}")
list(APPEND COMMAND ${flags} -fsyntax-only ${SOURCE})
if(kind STREQUAL "expect")
  execute_process(COMMAND ${COMMAND} RESULT_VARIABLE result ERROR_VARIABLE output)
  if(NOT result EQUAL 0)
    message(FATAL_ERROR "does not compile as it is:\n${output}")
  endif()
  list(APPEND COMMAND -DSHOULD_FAIL)
endif()
execute_process(COMMAND ${COMMAND} RESULT_VARIABLE result ERROR_VARIABLE output)
if(result EQUAL 0)
  message(FATAL_ERROR "compiles, but should not")
endif()
string(FIND "${output}" "${expected}" at)
if(at EQUAL -1)
  message(FATAL_ERROR "the message lacks '${expected}':\n${output}")
endif()
