"""How files are read and answers parsed: layouts, schemas, official answer files, words, languages."""
