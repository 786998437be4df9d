"""The viewer: an image before and after, what was taken from it, and what was measured."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from fastapi import APIRouter, Depends, Request
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, RedirectResponse, Response

from dicom_node.console.access import SignedIn, record, require
from dicom_node.console.byte_budget import BudgetExhausted, ByteBudget
from dicom_node.console.frame_response import KEEP, PiecewiseResponse, encode_frame
from dicom_node.console.image_measurements import measure_pair
from dicom_node.console.images import (
    BYTES_PER_PIXEL,
    Described,
    NoImage,
    Side,
    describe_image,
    described_as_json,
    read_patient,
    read_values,
)
from dicom_node.console.permissions import Permission
from dicom_node.console.rendering import render
from dicom_node.ledger.image_pairs import ImagePair, ImagePairLedger, KeptImage
from dicom_node.state import State

router = APIRouter(prefix="/viewer", dependencies=[Depends(require(Permission.VIEW_IMAGES))])

FRAMES_IN_MEMORY: Final = 512 << 20
"""Bytes that frames may take in the console's process at once, from decoding to the last piece sent."""
WAIT_S: Final = 20.0
DECODERS: Final = 2
"""Frames that are decoded at once: the worker and the receiver have other things to do with the processors."""
MEASUREMENT_FACTOR: Final = 8
"""What measuring a pair takes of memory, in frames."""

BURNED_IN: Final = (
    "The image says that text is burned into its pixels (Burned In Annotation), which may name the patient. It is "
    "shown to users who may see patient data."
)
BUSY: Final = "The console is reading as many images as it may at once. It is tried again."


class _Limits:
    """What all requests of an application share."""

    def __init__(self) -> None:
        self.memory = ByteBudget(FRAMES_IN_MEMORY)
        self.decoders = asyncio.Semaphore(DECODERS)


def _limits(request: Request) -> _Limits:
    state = request.app.state
    if not hasattr(state, "viewer_limits"):
        state.viewer_limits = _Limits()
    limits: _Limits = state.viewer_limits
    return limits


@router.get("/{instance_id}")
async def show_viewer(request: Request, instance_id: int) -> Response:
    """Show the page; that of a derived image is that of its source."""
    pair = await run_in_threadpool(_find, request, instance_id)
    if pair.source.instance_id != instance_id:
        return RedirectResponse(f"/viewer/{pair.source.instance_id}", 303)
    signed_in: SignedIn = request.state.signed_in
    patient: dict[str, str] | None = None
    if signed_in.may(Permission.VIEW_PATIENT):
        patient = await run_in_threadpool(read_patient, _node(request).store, pair)
    await run_in_threadpool(_audit, request, pair, patient is not None)
    return render(request, "viewer.html", pair=pair, patient=patient)


@router.get("/{instance_id}/pair.json")
async def describe_pair(request: Request, instance_id: int) -> Response:
    """Return what the viewer has to know before it asks for pixels."""
    pair = await run_in_threadpool(_find, request, instance_id)
    before, after = await run_in_threadpool(_describe_both, request, pair)
    return JSONResponse(
        {
            "id": pair.source.instance_id,
            "before": before,
            "after": after,
            "noise_before": pair.noise_before,
            "noise_after": pair.noise_after,
        },
        headers={"Cache-Control": "no-store"},
    )


@router.get("/{instance_id}/{side}/frames/{number}")
async def send_frame(request: Request, instance_id: int, side: Side, number: int, planes: bool = False) -> Response:
    """Return the stored values of one frame, from 1, at full bit depth.

    Little endian, row by row; the header ``X-Values`` names the type. With ``planes=true``, low bytes first and then
    high bytes, as ``X-Layout`` says.
    """
    pair = await run_in_threadpool(_find, request, instance_id)
    image = _image(pair, side)
    tag = f'"{image.digest}-{number}{"-p" if planes else ""}"' if image is not None else ""
    try:
        described = await run_in_threadpool(_describe, request, image)
    except NoImage as error:
        return _problem(str(error), 404)
    if not 1 <= number <= described.spec.frames:
        return _problem(f"There is no frame {number}; the image has {described.spec.frames}.", 404)
    if tag and request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers={"ETag": tag, "Cache-Control": KEEP})
    limits = _limits(request)
    needed = described.spec.rows * described.spec.columns * BYTES_PER_PIXEL
    try:
        taken = await limits.memory.take(needed, within_s=WAIT_S)
    except BudgetExhausted:
        return _problem(BUSY, 503, {"Retry-After": "2"})
    try:
        async with limits.decoders:
            frame = await run_in_threadpool(read_values, _node(request).store, image, number)
            data, headers = await run_in_threadpool(
                encode_frame,
                frame,
                accept_encoding=request.headers.get("accept-encoding", ""),
                in_planes=planes,
            )
    except NoImage as error:
        limits.memory.give_back(taken)
        return _problem(str(error), 404)
    except BaseException:
        limits.memory.give_back(taken)
        raise
    headers |= {"ETag": tag, "Cache-Control": KEEP}
    return PiecewiseResponse(data, headers=headers, done=lambda: limits.memory.give_back(taken))


@router.get("/{instance_id}/measurements/{number}")
async def measure(request: Request, instance_id: int, number: int) -> Response:
    """Measure frame `number` again: noise before and after, and what the guard judges by."""
    pair = await run_in_threadpool(_find, request, instance_id)
    limits = _limits(request)
    try:
        described = await run_in_threadpool(_describe, request, pair.source)
        needed = described.spec.rows * described.spec.columns * BYTES_PER_PIXEL * MEASUREMENT_FACTOR
        taken = await limits.memory.take(needed, within_s=WAIT_S)
        try:
            async with limits.decoders:
                found = await run_in_threadpool(measure_pair, _node(request).store, pair, number)
        finally:
            limits.memory.give_back(taken)
    except BudgetExhausted:
        return _problem(BUSY, 503, {"Retry-After": "2"})
    except NoImage as error:
        return _problem(str(error), 404)
    return JSONResponse(found, headers={"Cache-Control": "no-store"})


def _node(request: Request) -> State:
    node: State = request.app.state.node
    return node


def _find(request: Request, instance_id: int) -> ImagePair:
    # Keys of PostgreSQL have 64 bits.
    pair = ImagePairLedger(_node(request).database).find(instance_id) if 0 < instance_id < 1 << 63 else None
    if pair is None:
        raise HTTPException(404, "There is no image of this number in the ledger.")
    return pair


def _image(pair: ImagePair, side: Side) -> KeptImage | None:
    return pair.source if side is Side.BEFORE else pair.derived


def _describe(request: Request, image: KeptImage | None) -> Described:
    described = describe_image(_node(request).store, image)
    signed_in: SignedIn = request.state.signed_in
    if described.presentation.burned_in and not signed_in.may(Permission.VIEW_PATIENT):
        raise NoImage(BURNED_IN)
    return described


def _describe_both(request: Request, pair: ImagePair) -> tuple[dict[str, Any], dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for image in (pair.source, pair.derived):
        try:
            found.append(described_as_json(_describe(request, image)))
        except NoImage as error:
            found.append({"problem": str(error)})
    return found[0], found[1]


def _audit(request: Request, pair: ImagePair, with_patient: bool) -> None:
    record(
        request, "view image with patient data" if with_patient else "view image", f"image {pair.source.instance_id}"
    )


def _problem(sentence: str, status: int, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse(
        {"problem": sentence}, status_code=status, headers={"Cache-Control": "no-store", **(headers or {})}
    )
