# A server image: docker build -t vlm-anchors . && docker run --rm -p 127.0.0.1:8000:8000 vlm-anchors
# For CUDA: --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu126, and docker run --gpus all.
FROM python:3.11-slim
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN useradd --create-home server
WORKDIR /app
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY src src
RUN pip install --no-cache-dir --extra-index-url "$TORCH_INDEX" -c constraints.txt ".[serve]"
USER server
EXPOSE 8000
# In a container the server must listen on all addresses; publish the port on 127.0.0.1 or put a proxy before it.
ENTRYPOINT ["vlm-anchors", "serve", "--host", "0.0.0.0"]
CMD ["--model", "scenes", "--method", "clva"]
