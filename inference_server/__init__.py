"""The inference server: draws pictures over HTTP, in the wire format of docker-diffusers-api and a little more.

The parent process speaks HTTP and never touches the device; the engine lives in a child process of its own, which can
sleep, crash and come back while the server goes on answering. Run it as `python -m inference_server --help`.
Source of the wire format: https://github.com/kiri-art/docker-diffusers-api
"""
