"""The command line: each verb asks the daemon's API and renders its answer. What a verb
does not need is not imported: one that only asks starts in well under 100 ms."""
