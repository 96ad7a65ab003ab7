"""AttAnchor: where anchors go, and the inputs rewritten with them."""
