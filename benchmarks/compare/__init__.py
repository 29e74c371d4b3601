"""The same work on sundog and its peers; ``__main__`` runs it."""
