"""The data plane of Penstock, compiled: it receives, reads and keeps metrics, and never decides.

The pieces stand in the order in which a metric meets them on the way out of this module: memory first
(ring), then what writes it (reader, lane). Types and contracts are in agent/_core.pyi.
"""

from os import environ as os_environ, fsencode as os_fsencode, lstat as os_lstat, unlink as os_unlink
from re import compile as re_compile
from stat import S_ISREG as stat_S_ISREG
from threading import Lock

from agent.errors import RingError

cimport cython
from cpython.buffer cimport PyBuffer_FillInfo
from cpython.exc cimport PyErr_CheckSignals, PyErr_SetFromErrno
from libc.errno cimport EINTR, errno
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset, strerror

from c_aggregate cimport *
from c_lane cimport *
from c_line cimport *
from c_ring cimport *

include "alloc.pyx"
include "waker.pyx"
include "ring.pyx"
include "reader.pyx"
include "aggregate.pyx"
include "lane.pyx"
