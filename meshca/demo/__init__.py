"""`meshca demo`: a whole little mesh on one machine, watched while its certificates are renewed."""
