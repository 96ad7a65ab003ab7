"""`vlm-anchors app`: ask in a browser, plain and with methods, and see where the model looked.

visit.py answers one visitor's questions and keeps what was seen; cards.py draws it as HTML; sliders.py says which
parameters have a slider; server.py puts it together with Gradio; guard.py limits requests.
"""
