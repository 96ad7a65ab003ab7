"""An OpenAI-compatible server: `vlm-anchors serve`. Every request may name its own method.

`chat_request` reads a request and `request_images` the images in it; `batching` answers requests together, `row_control`
is what differs between the rows of a batch; `server` is the HTTP surface. Response types are openai's.
"""
