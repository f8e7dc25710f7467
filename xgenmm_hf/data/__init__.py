"""Procedurally drawn pictures with exact captions, questions and answers.

`scene` says what a picture holds, `render` draws it at any pixel size, `language` writes its caption, `questions`
asks about it. All of it is a pure function of a scene and a seed, so nothing needs to be stored or downloaded.
"""
