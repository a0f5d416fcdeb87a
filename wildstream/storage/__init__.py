"""Where bytes lie: local files, objects of S3, GCS and Azure, and HTTP servers, behind one face."""
