"""FlexNN's own text files: profiles (.memprof, .timeprof) and plans (.malloc, .dependency, .layout).

Formats of github.com/xxxxyu/FlexNN (src/profiler.cpp, src/plannedallocator.cpp, examples/flexnnschedule.h), specified
in docs/formats/flexnn-text.md. Its layers are positions in the .param file, Input layers included, and run in that
order.
"""
