# cmake -DCOMMAND=program;arguments -DEXPECT=text -P exit_status.cmake
# The program refuses: exit status 2 and one line on standard error that holds the text.
execute_process(COMMAND ${COMMAND} RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE error)
if(NOT result EQUAL 2)
  message(FATAL_ERROR "exit status ${result}, not 2:\n${output}${error}")
endif()
if(NOT error MATCHES "^[^\n]+\n$")
  message(FATAL_ERROR "not one line on standard error:\n${error}")
endif()
string(FIND "${error}" "${EXPECT}" at)
if(at EQUAL -1)
  message(FATAL_ERROR "the message lacks '${EXPECT}': ${error}")
endif()
