# Tests that are scripts: the interpreter and how they are registered.
find_program(LANDFALL_PYTHON3 NAMES python3 PATHS /usr/bin NO_DEFAULT_PATH)
if(NOT LANDFALL_PYTHON3)
  find_program(LANDFALL_PYTHON3 NAMES python3 REQUIRED)
endif()

# landfall_script_test(<label> <name> <script, relative to tests/> [ARGS …] [TIMEOUT s]
#                      [LOCK resource…]): registers <label>/<name>. Python scripts run with the
# system's interpreter (it sees Debian's modules), others by their #! line. The script finds the
# build in LANDFALL_BUILD; 77 means skipped. LOCK names what two tests may not use at once.
function(landfall_script_test label name script)
  cmake_parse_arguments(ARG "" "TIMEOUT" "ARGS;LOCK" ${ARGN})
  set(command ${CMAKE_SOURCE_DIR}/tests/${script} ${ARG_ARGS})
  if(script MATCHES "\\.py$")
    set(command ${LANDFALL_PYTHON3} ${command})
  endif()
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 180)
  endif()
  add_test(NAME ${label}/${name} COMMAND ${command})
  set_tests_properties(${label}/${name} PROPERTIES
    LABELS ${label} TIMEOUT ${ARG_TIMEOUT} SKIP_RETURN_CODE 77
    ENVIRONMENT "LANDFALL_BUILD=${CMAKE_BINARY_DIR};PYTHONDONTWRITEBYTECODE=1")
  if(ARG_LOCK)
    set_tests_properties(${label}/${name} PROPERTIES RESOURCE_LOCK "${ARG_LOCK}")
  endif()
endfunction()
