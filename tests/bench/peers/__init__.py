"""The packages that stand beside us, each a program of its own that knows nothing of ours; `tests.bench.beside` starts them and asks.

A program gets its database's address and the bodies of two events by the variable BENCH_PEER (JSON: dsn, settings, proposed, confirmed),
says `{"ready": true}` on a line when it could begin, then answers each line it reads by one line, both JSON, until its input ends.

| `do` | with | answer |
|---|---|---|
| `append` | `callers`, `seconds`, `length`: new streams, one after the other | `count` of events, `seconds`, `latencies` of the commands |
| `seed` | `streams`, `length`: forgets those seeded before | `count` of events |
| `command` | `callers`, `seconds`, `used`: reads a seeded stream, decides, appends one; each stream `used` times | the same, of commands |
| `hot` | `callers`, `seconds`, `streams`: reads one of few new streams, appends one, again at a conflict | the same, and `conflicts` |
| `project` | `events`: so many are there, made at first; a projection runs over them from the start | `count`, `seeded`, `seconds` |
| `follow` | `rate`, `seconds`: saves by a schedule while a projection follows | `latencies` from the schedule to the committed rows |

What a peer is asked is generous to it: bodies are plain strings and numbers, made before the clock starts.
"""
