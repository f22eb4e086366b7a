"""`/api/models/{id}/…`: orders to single models: another number of replicas, sleep, wake."""

from __future__ import annotations

from fastapi import APIRouter, Request

from aviary.web import shapes
from aviary.web.ports import Control
from aviary.web.roles import ADMIN, caller


def add_orders(router: APIRouter, control: Control) -> None:
    """The routes that order."""
    fleet = control.fleet

    @router.post("/models/{model}/scale", status_code=202, dependencies=ADMIN)
    async def scale(model: str, wanted: shapes.Scale, request: Request) -> shapes.Applied:
        """Change `scaling.min_replicas` of the model's spec; none that stays is restarted."""
        by = caller(request)
        before = fleet.spec(model).scaling.min_replicas
        application, changes = await fleet.scale(model, wanted.replicas, by=by)
        if wanted.replicas == 0:
            control.keeper.order_sleep(model, by)
        elif before == 0:
            control.keeper.order_wake(model, by)
        action = next(change.action for change in changes if change.model == model)
        return shapes.Applied(model=model, action=action, apply=application.id)

    @router.post("/models/{model}/sleep", status_code=202, dependencies=ADMIN)
    async def sleep(model: str, request: Request) -> shapes.Ordered:
        """Free the model's memory once its answers have ended; a request or `wake` wakes it."""
        begun = control.keeper.order_sleep(model, caller(request))
        return shapes.Ordered(model=model, action="sleeps" if begun else "unchanged")

    @router.post("/models/{model}/wake", status_code=202, dependencies=ADMIN)
    async def wake(model: str, request: Request) -> shapes.Ordered:
        """Wake the model, once there is room for it; calls off an order to sleep."""
        begun = control.keeper.order_wake(model, caller(request))
        return shapes.Ordered(model=model, action="wakes" if begun else "unchanged")
