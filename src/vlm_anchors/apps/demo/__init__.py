"""`python -m vlm_anchors.apps.demo`: three scenes, six questions, plain and CLVA side by side, on a page of its own."""
