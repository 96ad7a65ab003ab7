"""`vlm-anchors app`: ask in a browser, plain and with methods, and see where the model looked.

visit.py answers one visitor's questions and keeps what was seen; cards.py draws it as HTML; dials.py says which dials have a
slider; page.py puts it together with Gradio; guard.py is the door.
"""
